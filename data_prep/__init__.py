"""From public and private footage to training shards: `python -m data_prep.<step> key=value ...`."""
