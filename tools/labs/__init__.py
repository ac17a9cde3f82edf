"""Engines of test labs that get their TFTP server from here, each an extra of the package."""
