"""Two of three files: a figure, a result in, a plotly figure out."""

import plotly.graph_objects as go


def silent_keys_figure(result):
    figure = go.Figure(go.Bar(x=list(range(len(result.share))), y=result.share.tolist()))
    return figure.update_layout(title=f"Heads leave {result.share.mean():.0%} of their keys out", yaxis_range=[0, 1])
