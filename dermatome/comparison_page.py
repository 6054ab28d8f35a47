"""The frame of the comparison page: its style, and where its content goes."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Training versions compared</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 2rem auto; padding: 0 1.2rem; max-width: 1400px; }
h1 { font-size: 1.6rem; margin: 0 0 .6rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .2rem; }
p { max-width: 50rem; margin: .3rem 0 .6rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid #ddd; vertical-align: top;
  min-width: 8.5rem; max-width: 22rem; }
tr > th:first-child { font-weight: 500; color: #444; }
td { font-variant-numeric: tabular-nums; }
td.best { font-weight: 700; }
td.best::before { content: "best "; float: right; font-size: .72rem; font-weight: 400; color: #00674d; }
.bar { display: block; height: 5px; background: #eee; margin-top: 3px; }
.bar i { display: block; height: 5px; background: #56b4e9; }
td.best .bar i { background: #009e73; }
.none { color: #767676; }
.warn { border-left: 4px solid #d55e00; padding-left: .7rem; }
details { margin: .5rem 0; }
summary { cursor: pointer; font-weight: 500; }
.side { display: flex; gap: 1.2rem; overflow-x: auto; align-items: flex-start; }
figure { margin: 0; flex: 1 0 26rem; max-width: 44rem; }
figcaption { font-weight: 600; margin-bottom: .3rem; }
img { width: 100%; height: auto; display: block; }
</style>
</head>
<body>
{body}
</body>
</html>
"""
