"""Tests of `tests/support` and `tests/tools`: that the laboratory itself can be trusted."""
