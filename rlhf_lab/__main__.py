"""``python -m rlhf_lab``: the same as the ``rlhf-lab`` command."""

from rlhf_lab.cli import main

if __name__ == "__main__":
    main()
