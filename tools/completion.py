"""Print what makes the shell complete the commands of mptftpd, their options, boards and files.

For bash, add this line to ~/.bashrc:  eval "$(mptftpd completion bash)"
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish", "tcsh", "powershell"))


def run(arguments: argparse.Namespace) -> int:
    from argcomplete.shell_integration import shellcode

    print(shellcode(["mptftpd"], shell=arguments.shell))
    return 0
