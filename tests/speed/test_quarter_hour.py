"""speed/quarter_hour.py, tried where there is no GPU: what fits is run, what does not is named."""

import re

from helpers import command

HOPS = "--nodes=6 --hops=2 --train=60 --valid=10 --test=10 --out_dir=data/tiny"


def test_a_report_of_what_fits_and_what_does_not(tmp_path):
    command(tmp_path, "prepare_hops.py", *HOPS.split()).check_returncode()
    lines = ['tokenizer = "words"', 'question_format = " {}"', 'step_format = " {}"', 'answer_format = " = {}"']
    lines += ["max_latent_stage = 2", "n_layer = 1", "n_head = 2", "n_embd = 16", "batch_size = 8", "epochs = (6, 3)"]
    (tmp_path / "tiny.py").write_text("\n".join(lines))
    flags = "--device=cpu --config=tiny.py --data_dir=data/tiny --init_from=scratch --minutes=0.3"
    done = command(tmp_path, "speed.quarter_hour", *flags.split(), "--parts=probe,cot,no_cot")
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "out/quarter_hour/report.md").read_text()
    assert report.strip() == done.stdout.strip()
    assert re.search(r"The full recipe would take [\d.]+ hours", report)
    assert [*re.findall(r"^\| (\d) \|", report, re.MULTILINE)] == ["0", "1", "2"]  # a line for each stage
    assert re.search(r"^cot, \d+ steps: test accuracy [\d.]+%", report, re.MULTILINE), report
    assert re.search(r"^no_cot(, \d+ steps|: left out)", report, re.MULTILINE), report
