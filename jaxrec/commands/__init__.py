"""The verbs of `jaxrec`, a file a verb: each has `Options` and `run`, thin over a public function.

`jaxrec.__main__` imports a verb only when it is asked for.
"""
