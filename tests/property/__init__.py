"""What must hold for every input, and for every story of edits, crashes and pods."""
