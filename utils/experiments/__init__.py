"""Many runs: grids of settings, finished runs, tables, pictures."""
