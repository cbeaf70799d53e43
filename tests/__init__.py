"""Tests, the local cluster that they run on, and what is made with it: demo, playground, bench."""
