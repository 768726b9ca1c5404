"""The demo: the flights that left New York in 2013, written through the pipeline and checked by plain SQL."""
