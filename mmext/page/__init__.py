"""The page of ``mmext compare`` and ``mmext diagnose``, and its figures as files. No torch."""
