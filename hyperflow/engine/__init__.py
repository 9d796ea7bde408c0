"""What makes remote_eval work: a pure scheduler, node launchers, workers, and the streams between them."""
