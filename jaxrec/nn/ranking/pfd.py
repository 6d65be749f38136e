"""A student and a teacher on shared vectors (Xu et al., KDD 2020, arXiv:1907.05171: privileged features).

The teacher reads the student's features and, beside them, what is known of training examples alone.
`tasks.distillation.between_outputs` lets the student learn from it.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrec.nn.layers.features import FeatureEmbedding
from jaxrec.types import Array


class PrivilegedTeacher(nn.Module):
    """Logits of a student of the features and of a teacher of features and privileged features.

    Fields:
      embedding: of the features, read by both. privileged: of those that the teacher alone reads.
      student, teacher: modules of vectors [B, F] and [B, F + P], such as `Tower`. They may differ in size.
      teacher_trains_embedding: False stops the teacher's gradient at the shared vectors, so that the
        privileged features reach the student through the teacher's predictions alone.
    """

    embedding: FeatureEmbedding
    privileged: FeatureEmbedding
    student: nn.Module
    teacher: nn.Module
    teacher_trains_embedding: bool = True

    def __post_init__(self) -> None:
        both = sorted({f.name for f in self.embedding.fields} & {f.name for f in self.privileged.fields})
        if both:
            raise ValueError(f"privileged: {', '.join(both)} is read by the student; leave it out of one")
        super().__post_init__()

    def __call__(self, batch: Mapping[str, Array], *, train: bool = False) -> dict[str, Array]:
        """Maps columns to {"student": [B], "teacher": [B]}; without privileged columns, to the student's."""
        x = self.embedding(batch)
        found = {"student": self.student(x, train=train)}
        if all(field.name in batch for field in self.privileged.fields):
            read = x if self.teacher_trains_embedding else jax.lax.stop_gradient(x)
            joined = jnp.concatenate([read, self.privileged(batch)], axis=-1)
            found["teacher"] = self.teacher(joined, train=train)
        return found
