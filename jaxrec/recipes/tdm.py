"""TDM and JTM (arXiv:1801.02294, arXiv:1902.07565): settings, training, and what a tree of items is searched by.

    tree = tree_building.from_categories(…), .from_vectors(…) or .random(num_items, seed=…)
    model = build(data, Recipe(), tree)
    fitted = train(model, data, Recipe(), tree, selection, seeds=…, workdir=…, description=…)
        data: `protocols.retrieval.Data`; of an example, a pair, all other training items of the user are the
        history. selection: `train.fit.Selection`; the tree is the column "tree" of the context that its
        measure reads. fitted.variables: {"params": …, "batch_stats": …} with a leading axis of seeds;
        `jax.tree.map(lambda leaf: leaf[i], fitted.variables)` are those of one.
    score_items(model, variables, tree) -> `index.scored.ScoreItems`
        of histories int32 [B, L], right-aligned, 0 is padding, as queries, with L = model.max_len. Make it
        within the compiled search, as a table is never closed over:
        jax.jit(lambda variables, tree, histories: trees.search(
            tree, score_items(model, variables, tree), histories, k, width))
    histories(queries, context, max_len) -> int32 [B, L]
        of the columns user and length of queries and start and items of `data.columns`.
"""
