"""Raw files to normalised documents: input files, records, extraction, limits, language, decontamination."""
