"""What models are fed, one file per modality; `registry` puts the parts of a model together."""
