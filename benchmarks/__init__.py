"""What hyperflow costs, measured beside other libraries: `make bench`."""
