//! Configuration: flags, variables and one file, the same names in each.
