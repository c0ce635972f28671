"""Does every answer stay the same, whatever breaks, and does nothing stay behind? (docs/faults.md)"""
