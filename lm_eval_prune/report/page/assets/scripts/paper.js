// The page of the paper's figures: nothing but charts.

document.body.classList.add("ready");
startCharts();
