"""What holds a fleet back: from rounds that were served to findings, worst first. Pure: no network, clock or I/O."""
