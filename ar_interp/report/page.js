// Figures are drawn as they come near the screen, and all of them, as wide as the paper allows, before printing.
(() => {
  const { template, figures } = JSON.parse(document.getElementById("figures").textContent);
  const config = { displaylogo: false, responsive: true };
  const plots = [...document.querySelectorAll(".plot")];
  const paper = { wide: 1000, half: 486 }; // pixels, shrunk by the style sheet to the width of the text
  const least = 640; // pixels of a figure of several panels, or of a table: on a narrower screen it scrolls

  const several = (plot) => {
    const { data, layout } = figures[Number(plot.dataset.number)];
    return "xaxis2" in layout || data.some(({ type }) => type === "table");
  };
  const draw = (plot, options, width) => {
    const { data, layout } = figures[Number(plot.dataset.number)];
    plot.dataset.drawn = "yes";
    plot.drawing = Plotly.newPlot(plot, data, { ...layout, template, width }, options);
  };

  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      if (several(target) && target.clientWidth < least) draw(target, { ...config, responsive: false }, least);
      else draw(target, config);
    }
  }, { rootMargin: "1200px" });
  plots.forEach((plot) => near.observe(plot));

  window.addEventListener("beforeprint", () => {
    near.disconnect();
    for (const plot of plots) draw(plot, { staticPlot: true }, paper[plot.dataset.width]);
  });
  window.addEventListener("afterprint", async () => {
    for (const plot of plots) {
      await plot.drawing;
      delete plot.dataset.drawn;
      near.observe(plot);
    }
  });
})();
