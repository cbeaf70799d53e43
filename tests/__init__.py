"""Tests, and apart from them what they stand on (`support`) and the programs made with it (`tools`)."""
