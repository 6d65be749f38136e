"""A finished run as a folder: kept by `run_folder.write`, read again by `run_folder.read`."""
