"""What is broken on purpose for which check of the verification, and the programs that do so."""
