"""What is measured on clips, in one place.

`measure` is quick and goes into every record that `data_prep.ingest` writes; `measure_clip` takes everything that
`data_prep.curate` selects by (`data_prep.measures.clip`, which needs OpenCV, and so is not imported here);
`measured_labels` turns it into labels for captions.
"""

from data_prep.measures.labels import LabelLimits, measured_labels
from data_prep.measures.names import MEASURES
from data_prep.measures.outline import Measures, measure

__all__ = ["MEASURES", "LabelLimits", "Measures", "measure", "measured_labels"]
