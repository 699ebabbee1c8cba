"""Curation: what `python -m data_prep.curate` consists of.

collect      measures, looks and thumbnails of every clip, in parallel, cached by content
duplicates   clips that look alike
verdicts     thresholds and duplicates decide which clips are kept; decide: all of this in a row
report       the table, the histograms; sheet: the contact sheet
table        curation.parquet
applied      curation.jsonl beside the clips, which data_prep.shard honours
"""
