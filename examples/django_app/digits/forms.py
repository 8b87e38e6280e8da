"""The forms."""

# mypy: allow-subclassing-any

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django import forms


class UploadForm(forms.Form):
    """A picture of a digit."""

    image = forms.ImageField(label="A picture of one digit", widget=forms.FileInput(attrs={"accept": "image/*"}))


class SplitForm(forms.Form):
    """The percentage of an endpoint's requests for each version.

    Args:
        split: The percentages in force, by version.
    """

    def __init__(self, split: Mapping[str, float], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for version, percent in split.items():
            self.fields[version] = forms.FloatField(
                min_value=0,
                max_value=100,
                step_size=0.1,
                initial=f"{round(percent, 1):g}",
                widget=forms.NumberInput(attrs={"aria-label": f"Percent for {version}"}),
            )

    def clean(self) -> None:
        """Refuse a split with a sum other than 100 %."""
        total = sum(self.cleaned_data.values())
        if not self.errors and abs(total - 100) > 0.05:
            raise forms.ValidationError(f"The shares add up to {total:g} %, not to 100 %.")

    def weights(self) -> dict[str, float]:
        """Return the split as a traffic policy."""
        total = sum(self.cleaned_data.values())
        return {version: percent / total for version, percent in self.cleaned_data.items()}
