"""How the report sets text: notation, numbers, and text that is not to be trusted."""

import pytest

from ar_interp.report.typeset import figure_text, measured, number, typeset


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("s_{t+1} = W s_t", "s<sub>t+1</sub> = W s<sub>t</sub>"),
        ("p_{T-1} / p_T = -1/2", "p<sub>T−1</sub> / p<sub>T</sub> = −1/2"),
        ("<a_h, b_h'> = 0, h != h'", "&lt;a<sub>h</sub>, b<sub>h'</sub>&gt; = 0, h ≠ h'"),
        ("|C^2 - mC| <= 1e-5", "|C<sup>2</sup> − mC| ≤ 1e-5"),
        ("lambda^T and 2^-H", "λ<sup>T</sup> and 2<sup>−H</sup>"),
        ("eta sum_t s_{t+1} s_t^*", "η Σ<sub>t</sub> s<sub>t+1</sub> s<sub>t</sub><sup>*</sup>"),
        ("kappa1 / kappa2, kappa_0", "κ<sub>1</sub> / κ<sub>2</sub>, κ<sub>0</sub>"),
        ("gamma_j of beta_j ψ_j", "γ<sub>j</sub> of β<sub>j</sub> ψ<sub>j</sub>"),
        ("a *control*, not 2*3", "a <em>control</em>, not 2*3"),
        ("hook_attn_scores of metadata", "hook_attn_scores of metadata"),
        ("<script>alert('x')</script> & more", "&lt;script&gt;alert('x')&lt;/script&gt; &amp; more"),
    ],
)
def test_notation(text, html):
    assert typeset(text) == html


@pytest.mark.parametrize(
    ("value", "html"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (-0.5, "−0.5"),
        (766, "766"),
        (15000, "15000"),
        (1.00000001, "1"),
        (-3.4567e-16, "−3.457·10<sup>−16</sup>"),
        (2e-5, "2·10<sup>−5</sup>"),
        (123456.7, "1.235·10<sup>5</sup>"),
        (float("nan"), "nan"),
    ],
)
def test_numbers(value, html):
    assert number(value) == html


@pytest.mark.parametrize(
    ("value", "uncertainty", "html"),
    [
        (2.25613, 0.1, "2.26 ± 0.1"),
        (1.002217, 0.0062, "1.0022 ± 0.0062"),
        (0.001, 0.02, "0.001 ± 0.02"),
        (0.0, 0.02, "0 ± 0.02"),
        (-0.04851541, 0.0, "−0.0485154"),
        (-8.26749e-15, 0.0, "−8.27·10<sup>−15</sup>"),
        (float("nan"), 0.1, "nan"),
    ],
)
def test_measured_numbers_have_the_digits_that_are_known(value, uncertainty, html):
    assert measured(value, uncertainty) == html


def test_titles_of_figures_keep_their_indices_and_write_numbers_as_pages_do():
    html = "at −0.5 and [−2, 0]: 7.02·10<sup>−9</sup> ± 10<sup>−12</sup>, −8·10<sup>6</sup>; x4-5, T-1, 2e3 stay"
    assert figure_text("at -0.5 and [-2, 0]: 7.02e-09 ± 1e-12, -8e+06; x4-5, T-1, 2e3 stay") == html
    assert figure_text("p<sub>T</sub> is<br>1 <b>or</b> < 2") == "p<sub>T</sub> is 1 &lt;b&gt;or&lt;/b&gt; &lt; 2"
