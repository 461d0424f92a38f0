"""`python -m openfacility_cli` is `openfacility`."""

from openfacility_cli.main import main

main()
