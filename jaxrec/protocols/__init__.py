"""How each kind of table is measured: from a split to resident columns, selection and test.

next_item    sequences of items: the next item against all items or sampled candidates
sessions     click sessions: the next click against all items
impressions  labelled rows and clicks after a history: AUC and its kin

`Beyond` asks a ranking for metrics besides hits.
"""

from jaxrec.protocols import impressions as impressions
from jaxrec.protocols import next_item as next_item
from jaxrec.protocols import sessions as sessions
from jaxrec.protocols.beyond import Beyond as Beyond
