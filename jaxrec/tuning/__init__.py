"""Search of settings: a space, a study of trials on validation, several trials in one compiled program."""
