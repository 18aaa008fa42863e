"""What a run has found: intervals, summaries, the run folder, progress and report in the terminal."""
