#!/usr/bin/env python3
"""`mmext compare` where MMDetection keeps such tools: python tools/analysis_tools/compare_runs.py WORK_DIR..."""

import sys

from mmext.cli import main

if __name__ == '__main__':
    sys.argv.insert(1, 'compare')
    main()
