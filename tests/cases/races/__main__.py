import sys
from pathlib import Path

from cases.races import build, run

folder = Path(sys.argv[1]).resolve()
folder.mkdir(parents=True, exist_ok=True)
done = run(build(folder))
print(done.stdout, end="")
sys.exit(done.returncode != 0)
