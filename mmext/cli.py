"""The ``mmext`` command: parses, calls, prints. Heavy modules are imported inside the commands."""

import os
import sys
import warnings
from pathlib import Path

import click

from mmext import __version__
from mmext.errors import InputError

_JSON = click.option(
    '--json', 'json_file', type=click.Path(dir_okay=False, path_type=Path), help='Write the answer here too.'
)
_OUT_FILE = click.Path(dir_okay=False, path_type=Path)
_HTML = click.option('--html', 'html_file', type=_OUT_FILE, metavar='FILE', help='Write a page with curves, for a browser.')
_PNG = click.option(
    '--png',
    'png_folder',
    type=click.Path(file_okay=False, path_type=Path),
    metavar='DIR',
    help='Write the curves as PNG and PDF.',
)
_CFG_OPTIONS = click.option(
    '--cfg-options',
    multiple=True,
    metavar='KEY=VALUE...',
    help='Change settings of the config, as in `mim train`: --cfg-options train_cfg.max_epochs=20 load_from=None',
)


@click.group(context_settings={'help_option_names': ['-h', '--help'], 'max_content_width': 110})
@click.version_option(__version__)
def cli() -> None:
    """Fine-tune instance segmentation with MMDetection and see what every part of the network does.

    \b
    mmext demo-data data/demo                              made images to try everything on
    mmext init --train ANN IMAGES --val ANN IMAGES \\
               --recipe mask-rcnn_r50_fpn_finetune --out my.py   a config for your own COCO files
    mmext check my.py                                      what in config and annotations would spoil a training
    mmext groups my.py --schedule                          which part learns at which rate
    mim train mmdet my.py --work-dir work_dirs/my          the training itself is MMDetection's
    mmext diagnose work_dirs/my                            why its masks are bad, and the config line that mends it
    mmext compare work_dirs/my work_dirs/other             which run is better, and what differs

    Exit codes: 0 fine, 1 a problem was found, 2 the input cannot be used, 70 a crash of mmext.
    """


@cli.command('demo-data')
@click.argument('folder', metavar='DIR', type=click.Path(file_okay=False, path_type=Path))
@click.option('--images', default=60, show_default=True, type=click.IntRange(1), help='Training images.')
@click.option('--val-images', type=click.IntRange(1), help='Validation images.  [default: a third of --images, at least 2]')
@click.option('--seed', default=0, show_default=True, type=click.IntRange(0), help='Same seed, same bytes.')
@click.option(
    '--kind',
    type=click.Choice(['particles', 'shapes']),
    default='particles',
    show_default=True,
    help='particles: Fiber, Fragment, Film; shapes: what the shipped source model was trained on.',
)
def demo_data(folder: Path, images: int, val_images: int | None, seed: int, kind: str) -> None:
    """Make microscope-like images of fibers, fragments and films in DIR/train and DIR/val.

    Each part has its images and an annotations.json, COCO with polygons.

    Example: mmext demo-data data/demo --images 60 --seed 0
    """
    from mmext.data.demo import KINDS, write_part

    for number, (part, count) in enumerate((('train', images), ('val', val_images or max(2, images // 3)))):
        with click.progressbar(length=count, label=f'{part:5}', file=sys.stderr) as bar:
            for _ in write_part(folder / part, count, (seed, number), KINDS[kind]):
                bar.update(1)
        click.echo(folder / part / 'annotations.json')


@cli.command()
@click.option('--train', nargs=2, type=click.Path(path_type=Path), metavar='ANN IMAGES', help='COCO file and image folder.')
@click.option('--val', nargs=2, type=click.Path(path_type=Path), metavar='ANN IMAGES', help='The same for validation.')
@click.option('--recipe', required=True, metavar='NAME', help='The recipe to start from; `--recipe list` prints the names.')
@click.option('--out', type=click.Path(dir_okay=False, path_type=Path), metavar='CONFIG', help='The config to write.')
@click.option('--batch-size', type=click.IntRange(1), help="Images a step on one GPU.  [default: the recipe's]")
@click.option(
    '--crowd-as-instances',
    is_flag=True,
    help='Train on annotations with iscrowd=1, as CVAT writes masks: in copies of ANN beside CONFIG they are 0.',
)
@click.option('--force', is_flag=True, help='Write over an existing CONFIG, and over its copies of ANN.')
def init(train, val, recipe: str, out: Path | None, batch_size: int | None, crowd_as_instances: bool, force: bool) -> None:
    """Write a config for your own COCO files: classes, paths, batch, rate and detection caps are taken from them.

    \b
    Example:
      mmext init --train ann/train.json images/train --val ann/val.json images/val \\
                 --recipe mask-rcnn_r50_fpn_finetune --out my_config.py
    """
    from mmext import recipes

    if recipe == 'list':
        for name, path in recipes().items():
            first = path.read_text(encoding='utf-8').splitlines()[0].removeprefix('# Changes: ')
            click.echo(f'{name}\t{first}')
        return
    for option, value in (('--train', train), ('--val', val), ('--out', out)):
        if not value:
            raise click.UsageError(f'Missing option {option!r}. See the example in `mmext init --help`.')
    from mmext.data.own_data import copy_path, write_config

    written = [out, *(copy_path(out, part) for part in ('train', 'val') if crowd_as_instances)]
    there = next((path for path in written if path.exists()), None)
    if there and not force:
        raise InputError(f'--out: {there} is there already. Give another name, or --force to write over it.')
    for line in write_config(train, val, recipe, out, batch_size, crowd_as_instances):
        click.echo(line)


@cli.command()
@click.argument('config')
@click.option('--schedule', is_flag=True, help='Dry-run the schedulers: the rate of each part at every change.')
@click.option('--epoch-length', type=click.IntRange(1), metavar='N', help='Iterations an epoch.  [default: from the data]')
@_CFG_OPTIONS
@_JSON
@click.pass_context
def groups(ctx, config: str, schedule: bool, epoch_length: int | None, cfg_options: tuple, json_file: Path | None) -> None:
    """Print which part of the network learns at which rate, without training.

    CONFIG is a config file or a recipe's name. With --schedule exit code 1 says that a scheduler undoes the ratio between
    parts.

    \b
    Examples:
      mmext groups my_config.py --cfg-options optim_wrapper.paramwise_cfg.custom_keys.roi_head.lr_mult=15
      mmext groups mask-rcnn_r50_fpn_finetune --schedule --epoch-length 100
    """
    from mmext.optim.group_report import report

    answer = report(config, cfg_options, schedule, epoch_length)
    answer.print()
    if json_file:
        answer.write(json_file)
    ctx.exit(1 if answer.problem else 0)


@cli.command()
@click.argument('config')
@click.option('--images', is_flag=True, help='Open every image too: readable, size, bit depth, twice.')
@click.option(
    '--show', type=click.Path(file_okay=False, path_type=Path), metavar='DIR', help='Draw the ground truth: sheets a class.'
)
@_CFG_OPTIONS
@_JSON
@click.pass_context
def check(ctx, config: str, images: bool, show: Path | None, cfg_options: tuple, json_file: Path | None) -> None:
    """Say before a training what in CONFIG and its annotation files would spoil it.

    CONFIG is a config file or a recipe's name. The findings come worst first, each with the line that mends it; then how
    many annotations reach the training, the best masks that the mask grid allows, and sizes against anchors. Weights are
    not downloaded. What each finding means: docs/check.md. Exit code 1: a severe finding or a warning.

    \b
    Examples:
      mmext check my_config.py
      mmext check my_config.py --images --show work_dirs/ground_truth --json check.json
    """
    from mmext.check.report import check as check_config
    from mmext.console import progress_bars

    with progress_bars() as progress:
        answer = check_config(config, cfg_options, images, show, progress)
    answer.print()
    if json_file:
        answer.write(json_file)
    for crash in answer.crashes:
        click.echo(f'\nmmext crashed in a check. That is a defect of mmext: please report it. {crash}', err=True)
    ctx.exit(70 if answer.crashes else 1 if answer.problem else 0)


@cli.command()
@click.argument('work_dir', type=click.Path(path_type=Path))
@click.option('--deep', is_flag=True, help='Experiment on the checkpoint too, with a sample of the images: about a minute.')
@click.option(
    '--overfit',
    type=click.IntRange(2, 8),
    metavar='N',
    help='Train a copy on N training images, to see if it can learn them.',
)
@click.option(
    '--budget',
    type=click.IntRange(min=1),
    default=150,
    metavar='SECONDS',
    help='Longest time for --overfit.',
    show_default=True,
)
@click.option('--watch', is_flag=True, help='Follow a running training: say it again whenever the verdict changes.')
@click.option(
    '--write-config',
    'config_file',
    type=click.Path(dir_okay=False, path_type=Path),
    metavar='FILE',
    help='Write a config that trains the run again with the remedies.',
)
@_HTML
@_PNG
@_JSON
@click.pass_context
def diagnose(
    ctx,
    work_dir: Path,
    deep: bool,
    overfit: int | None,
    budget: int,
    watch: bool,
    config_file: Path | None,
    html_file: Path | None,
    png_folder: Path | None,
    json_file: Path | None,
) -> None:
    """Say what holds the masks back in the run of WORK_DIR, by its records, and the config line that mends it.

    Works on MMDetection's own runs too, with what they log. "Nothing is wrong" and "not enough evidence" are answers. What
    each finding means, and where its limit comes from: docs/diagnosis.md. Exit code 1: a severe finding or a warning.

    With --deep the best checkpoint predicts up to 50 training and 50 validation images, once as it is and then with one
    thing made right (boxes, threshold, ...): causes are ranked by the mask IoU that mending them wins.

    With --overfit N a copy is trained on N training images until it has learnt their masks or the time is over: that tells
    a broken pipeline from one that lacks data. Nothing in WORK_DIR is changed.

    \b
    Examples:
      mmext diagnose work_dirs/my
      mmext diagnose work_dirs/my --deep
      mmext diagnose work_dirs/my --overfit 4
      mmext diagnose work_dirs/my --write-config my_mended.py
      mmext diagnose work_dirs/my --watch
      mmext diagnose work_dirs/my --html my.html
    """
    import contextlib

    from mmext.analysis import diagnose as diagnosing
    from mmext.analysis.child_config import write_child_config
    from mmext.analysis.report import to_lines
    from mmext.analysis.runs import read_run
    from mmext.analysis.watch import verdicts
    from mmext.console import console

    if (deep or overfit) and watch:
        raise click.UsageError(
            f'{"--deep" if deep else "--overfit"} and --watch exclude each other: experiments are made on one checkpoint.'
        )
    out, answer = console(), None
    with contextlib.suppress(KeyboardInterrupt) if watch else contextlib.nullcontext():
        if watch:
            answers = verdicts(work_dir)
        else:
            answers = [_experiments(work_dir, deep, overfit, budget) if deep or overfit else diagnosing.diagnose(work_dir)]
        for answer in answers:
            for line in to_lines(answer, out.width):
                out.print(line, soft_wrap=True)
            out.print()
    if answer is None:
        raise diagnosing.no_run(work_dir, 'it has not logged anything yet')
    if json_file:
        answer.write(json_file)
    if html_file or png_folder:
        from mmext.page.html_page import page_of_run

        _write_page(page_of_run(work_dir, answer), html_file, png_folder)
    if config_file:
        run = read_run(work_dir)
        if write_child_config(config_file, run.config_file, run.settings, answer.findings):
            click.echo(f'Wrote {config_file}. Train it: mim train mmdet {config_file}')
        else:
            click.echo(f'No remedy is a config line, so {config_file} is not written.')
    ctx.exit(1 if answer.problem else 0)


def _experiments(work_dir: Path, deep: bool, images: int | None, budget: int):
    """The diagnosis of a run with the experiments on its checkpoint."""
    from mmext.analysis import diagnose as diagnosing
    from mmext.analysis.runs import read_run
    from mmext.console import progress_bars

    run = read_run(work_dir)
    if not run.train:
        raise diagnosing.no_run(run.path, run.problem)
    experiments, remarks = [], []
    with progress_bars() as progress:
        if deep:
            from mmext.probe.run import probe

            made = probe(run, progress)
            experiments += made.experiments
            remarks += made.remarks
        if images:
            from mmext.probe.overfit import overfit

            experiments.append(overfit(run, images, budget, progress))
    return diagnosing.diagnose_run(run, experiments, remarks)


def _write_page(page, html_file: Path | None, png_folder: Path | None) -> None:
    """A page as the one file, and its figures as files."""
    from mmext.page.figure_files import write_figures
    from mmext.page.html_page import write_html

    if html_file:
        write_html(page, html_file)
    if png_folder:
        write_figures(page, png_folder)


@cli.command()
@click.argument('folders', metavar='WORK_DIR...', nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option('--metric', metavar='NAME', help='Show the validation that is best by this.  [default: mask_ap]')
@click.option(
    '--at', type=click.Choice(['best', 'last']), default='best', show_default=True, help='Which validation to show.'
)
@click.option('--sort', metavar='COLUMN', help='Order the runs by this, best first.  [default: as given]')
@click.option('--columns', metavar='NAMES', help='One table of these: state,mask_ap,share_mask. `list` prints all names.')
@click.option('--csv', 'csv_file', type=_OUT_FILE, metavar='FILE', help='Write every number, a row a run.')
@click.option('--markdown', 'markdown_file', type=_OUT_FILE, metavar='FILE', help='Write the tables as Markdown.')
@_HTML
@_PNG
@_JSON
@click.pass_context
def compare(
    ctx, folders: tuple[Path, ...], metric, at, sort, columns, csv_file, markdown_file, html_file, png_folder, json_file
) -> None:
    """Set runs side by side: states, verdicts, validation, losses and shares, and where their configs differ.

    WORK_DIR is a run's folder or one that holds many. Works on running and broken-off runs and on MMDetection's own.
    Resumed starts are one run, a start from the beginning is a run of its own. What cannot be read is an entry; exit code 2
    when nothing can. What each column means: docs/compare.md.

    \b
    Examples:
      mmext compare work_dirs/uniform work_dirs/differential
      mmext compare work_dirs --sort mask_ap --csv runs.csv
      mmext compare work_dirs --metric mask_iou --columns state,epochs,mask_iou,share_mask
      mmext compare work_dirs --html runs.html
    """
    from mmext.analysis import compare as comparing
    from mmext.analysis import compare_report as report
    from mmext.console import console, progress_bars

    curves = bool(html_file or png_folder)
    with progress_bars() as progress:
        answer = comparing.compare(folders, metric, at, sort, curves, noise=True, progress=progress)
    if columns == 'list':
        for name, column in answer.columns.items():
            click.echo(f'{name}\t{column.key or column.heading}')
        return
    names = columns and [comparing.column_name(name, answer.columns, '--columns') for name in columns.split(',')]
    for file, text in (
        (json_file, answer.to_json),
        (csv_file, lambda: report.to_csv(answer, names)),
        (markdown_file, lambda: report.to_markdown(answer, names)),
    ):
        if file:
            file.write_text(text(), encoding='utf-8')
    if answer.readable and (html_file or png_folder):
        from mmext.page.html_page import page_of

        _write_page(page_of(answer), html_file, png_folder)
    out = console()
    if answer.readable:
        for sheet in report.sheets(answer, names, out.width):
            out.print(sheet.title, style='bold', soft_wrap=True, markup=False)
            out.print(sheet.to_table())
            if sheet.hidden:
                out.print(f'No room for: {", ".join(sheet.hidden)}. --csv FILE has all.', soft_wrap=True, markup=False)
            out.print()
        if len(answer.readable) > 1 and not answer.differences:
            out.print('Their configs do not differ.')
        for line in report.remarks(answer):
            out.print(line, soft_wrap=True, markup=False)
    for run in answer.runs:
        if run.problem:
            click.echo(f'{run.path}: {run.problem}', err=True)
    ctx.exit(0 if answer.readable else 2)


def spread_cfg_options(arguments: list[str]) -> list[str]:
    """``--cfg-options a=1 b=2`` as ``--cfg-options a=1 --cfg-options b=2``, since click's options take one value."""
    spread, inside = [], False
    for argument in arguments:
        if inside and '=' in argument and not argument.startswith('-'):
            if spread[-1] != '--cfg-options':
                spread.append('--cfg-options')
        else:
            inside = argument == '--cfg-options'
        spread.append(argument)
    return spread


def main() -> None:
    """Entry point: turns an InputError into exit code 2, a crash into 70."""
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated')  # MMEngine's, at each config it reads
    try:
        status = cli.main(args=spread_cfg_options(sys.argv[1:]), prog_name='mmext', standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        status = error.exit_code if isinstance(error, click.UsageError) else 2
    except click.Abort:
        status = 130
    except InputError as error:
        click.echo(f'mmext: {error}', err=True)
        status = 2
    except (BrokenPipeError, SystemExit):  # the reader of a pipe had enough: click and rich make a SystemExit of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except OSError as error:
        click.echo(f'mmext: {error.filename or "input or output"}: {error.strerror or error}', err=True)
        status = 2
    except Exception:
        import traceback

        traceback.print_exc()
        click.echo('mmext crashed. That is a defect of mmext: please report it with the lines above.', err=True)
        status = 70
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == '__main__':
    main()
