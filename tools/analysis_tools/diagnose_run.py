#!/usr/bin/env python3
"""`mmext diagnose` where MMDetection keeps such tools: python tools/analysis_tools/diagnose_run.py WORK_DIR"""

import sys

from mmext.cli import main

if __name__ == '__main__':
    sys.argv.insert(1, 'diagnose')
    main()
