"""How each kind of table is measured: from a split to resident columns, selection and test."""
