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
               --recipe mask-rcnn_r50_fpn_finetune --out my.py   a config for your own data
    mmext check my.py                                      what in config and annotations would spoil a training
    mmext groups my.py --schedule                          which part learns at which rate
    mim train mmdet my.py --work-dir work_dirs/my          the training itself is MMDetection's
    mmext diagnose work_dirs/my                            why its masks are bad, and the config line that mends it
    mmext compare work_dirs/my work_dirs/other             which run is better, and what differs
    mmext predict my.py work_dirs/my/epoch_12.pth images --out found   masks, tables and pictures of new images
    mmext kfold ann.json --folds 5 --out folds             a COCO file cut into folds, even in its classes
    mmext cross-validate my.py --folds 5                   a training a fold: mean, spread, out-of-fold score
    mmext sweep my.py --set KEY=1,5 --seeds 0,1            a training for each value and seed, and their comparison

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


def _two_paths(ctx, param, value: tuple[Path, Path] | None) -> tuple[Path, Path] | None:
    if value and str(value[1]).startswith('--'):  # click takes the next option for the second value
        raise click.UsageError(f'{param.opts[0]} takes two: ANN IMAGES. After {value[0]} the image folder is missing.')
    return value


_PART = {'nargs': 2, 'type': click.Path(path_type=Path), 'callback': _two_paths, 'metavar': 'ANN IMAGES'}


@cli.command()
@click.option('--train', **_PART, help='Annotations and image folder.')
@click.option('--val', **_PART, help='The same for validation.')
@click.option('--recipe', required=True, metavar='NAME', help='The recipe to start from; `--recipe list` prints the names.')
@click.option('--out', type=click.Path(dir_okay=False, path_type=Path), metavar='CONFIG', help='The config to write.')
@click.option(
    '--split',
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar='SHARE',
    help='Without --val: share of the images to validate on, even in its classes: 0.2',
)
@click.option(
    '--group-by',
    metavar='REGEX',
    help='With --split: found in file names; its first group, else the match, names the sample: it stays in one part.',
)
@click.option('--seed', default=0, show_default=True, type=click.IntRange(0), help='Of --split: same seed, same parts.')
@click.option(
    '--format',
    'kind',
    type=click.Choice(['coco', 'label-maps', 'yolo', 'labelme', 'cvat', 'via']),
    help='Of ANN, where it is of several.  [default: by its files]',
)
@click.option(
    '--objects',
    type=click.Choice(['values', 'components']),
    help='Of label maps: each value is an object, or each connected region.  [default: values; components with a table]',
)
@click.option(
    '--class-attribute', metavar='NAME', help='Region attribute of VIA that is the class.  [default: the only one]'
)
@click.option('--class-name', metavar='NAME', help='The class, where the files tell none.  [default: object]')
@click.option('--batch-size', type=click.IntRange(1), help="Images a step on one GPU.  [default: the recipe's]")
@click.option(
    '--map',
    'class_map',
    multiple=True,
    metavar='NEW=OLD',
    help="Class NEW of your data begins as OLD of the recipe's checkpoint; `NEW=` as none. Same names need no --map.",
)
@click.option(
    '--channels',
    metavar='N|R,G,B',
    help='Of images with many channels: one, from 0, shown as grey, or three as colours: 2,1,0',
)
@click.option(
    '--crowd-as-instances',
    is_flag=True,
    help='Train on annotations with iscrowd=1, as CVAT writes masks: in copies of ANN beside CONFIG they are 0.',
)
@click.option('--force', is_flag=True, help='Write over an existing CONFIG, and over what was written beside it before.')
def init(
    train,
    val,
    recipe: str,
    out: Path | None,
    split: float | None,
    group_by: str | None,
    seed: int,
    kind: str | None,
    objects: str | None,
    class_attribute: str | None,
    class_name: str | None,
    batch_size: int | None,
    class_map: tuple[str, ...],
    channels: str | None,
    crowd_as_instances: bool,
    force: bool,
) -> None:
    """Write a config for your own data: classes, paths, batch, rate, detection caps and loading are taken from it.

    ANN: a COCO file; a folder of label maps (PNG, TIFF); YOLO segmentation (data.yaml, or a folder of labels); a folder of
    LabelMe files; the XML of CVAT for images 1.1; JSON or CSV of VGG Image Annotator 2. What is not COCO is converted, in a
    file beside CONFIG. How classes and objects are told in each format: docs/your-data.md.

    \b
    Examples, all with --recipe mask-rcnn_r50_fpn_finetune --out my_config.py:
      mmext init --train ann/train.json images/train --val ann/val.json images/val
      mmext init --train labels images --split 0.2 --group-by '(.*)_frame'     any format, split by sample
      mmext init --train masks images --split 0.2 --class-name cell            label maps: masks/a.png or masks/Fiber/a.png
      mmext init --train data.yaml images/train --val data.yaml images/val     YOLO: labels/train, labels/val
      mmext init --train labelme images --split 0.2                            LabelMe
      mmext init --train annotations.xml images --split 0.2                    CVAT for images 1.1
      mmext init --train via.json images --split 0.2 --class-attribute type    VIA
      mmext init --train cvat.json images --split 0.2 --crowd-as-instances     CVAT's COCO
      mmext init --train ann.json images --split 0.2 --map Auto=car            a class that the checkpoint calls car
      mmext init --train ann.json images --split 0.2 --channels 2,1,0          TIFF of many channels
    """
    from mmext import recipes

    if recipe == 'list':
        for name, path in recipes().items():
            first = path.read_text(encoding='utf-8').splitlines()[0].removeprefix('# Changes: ')
            click.echo(f'{name}\t{first}')
        return
    for option, value in (('--train', train), ('--val', val or split), ('--out', out)):
        if not value:
            also = ' or --split' if option == '--val' else ''
            raise click.UsageError(f'Missing option {option!r}{also}. See the examples in `mmext init --help`.')
    if val and split:
        raise click.UsageError('--val and --split exclude each other: --split makes the validation part.')
    if group_by and not split:
        raise click.UsageError('--group-by says how to --split; give both.')
    from mmext.console import progress_bars
    from mmext.data.formats.content import Asked
    from mmext.data.image_loading import parse_channels
    from mmext.data.own_data import write_config

    asked = Asked(kind, objects, class_attribute, class_name)
    with progress_bars() as progress:
        lines = write_config(
            train,
            val or None,
            recipe,
            out,
            batch_size,
            crowd_as_instances,
            asked,
            split,
            group_by,
            seed,
            force,
            _class_map(class_map),
            parse_channels(channels) if channels is not None else None,
            progress,
        )
    for line in lines:
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
@click.option(
    '--columns',
    metavar='NAMES',
    help='One table of these for the first three: state,mask_ap,share_mask. `list` prints all names.',
)
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
    from mmext.console import progress_bars

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
    _print_comparison(answer, names)
    ctx.exit(0 if answer.readable else 2)


def _print_comparison(answer, names: list[str] | None = None) -> None:
    """The tables of a comparison, its remarks, and on standard error what could not be read."""
    from mmext.analysis import compare_report as report
    from mmext.console import console

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


_GROUP_BY = click.option(
    '--group-by',
    metavar='REGEX',
    help='Searched for in file_name; its first group, else the match, names the sample: it stays in one fold.',
)
_JOBS = click.option('--jobs', type=click.IntRange(1), metavar='N', help='Trainings at a time, on the CPU if no --devices.')
_DEVICES = click.option('--devices', metavar='LIST', help='GPUs, as in CUDA_VISIBLE_DEVICES, with a training each: 0,1')
_SLURM = click.option('--slurm', is_flag=True, help='Print a script for sbatch instead of training.')
_DRY_RUN = click.option('--dry-run', is_flag=True, help='Print the commands; write and train nothing.')


@cli.command()
@click.argument('ann_file', metavar='ANN', type=click.Path(path_type=Path))
@click.option('--folds', default=5, show_default=True, type=click.IntRange(2), help='How many.')
@click.option('--out', 'folder', required=True, metavar='DIR', type=click.Path(file_okay=False, path_type=Path))
@_GROUP_BY
@click.option('--seed', default=0, show_default=True, type=click.IntRange(0), help='Same seed, same folds.')
def kfold(ann_file: Path, folds: int, folder: Path, group_by: str | None, seed: int) -> None:
    """Cut the COCO file ANN into folds: DIR/fold0/train.json and val.json, and so on.

    Each fold gets its share of the instances of every class, and no sample is in two of them. The images stay where they
    are. What was done: DIR/folds.json; how even it is, and why: docs/many-runs.md.

    \b
    Examples:
      mmext kfold data/annotations.json --folds 5 --out data/folds
      mmext kfold data/annotations.json --out data/folds --group-by '(.*)_frame'
    """
    from mmext.data.folds import make_folds, write_folds

    made = make_folds(ann_file, folds, group_by, seed)
    write_folds(made, folder)
    _print_folds(made)
    click.echo(f'Written to {folder}; the image folder is that of {ann_file}.')


def _print_folds(made) -> None:
    from mmext.console import console
    from mmext.data.folds import fold_lines, fold_rows, to_table

    rows, out = fold_rows(made), console()
    out.print(to_table(rows))
    for line in fold_lines(rows):
        out.print(line, soft_wrap=True, markup=False)


@cli.command('cross-validate')
@click.argument('config')
@click.option('--folds', default=5, show_default=True, type=click.IntRange(2), help='How many.')
@_GROUP_BY
@click.option('--seed', type=click.IntRange(0), help="Of the folds and of every training.  [default: the config's, or 0]")
@click.option(
    '--ann',
    'ann_file',
    type=click.Path(path_type=Path),
    metavar='FILE',
    help="COCO file to fold, with images in the training's folder.  [default: the one that CONFIG trains on]",
)
@click.option(
    '--out',
    'folder',
    type=click.Path(file_okay=False, path_type=Path),
    metavar='DIR',
    help='Folder of the runs.  [default: work_dirs/CONFIG-cv]',
)
@_JOBS
@_DEVICES
@_CFG_OPTIONS
@click.option('--metric', metavar='NAME', help='Take the validation that is best by this.  [default: mask_ap]')
@click.option(
    '--at', type=click.Choice(['best', 'last']), default='best', show_default=True, help='Which validation to take.'
)
@click.option('--collect', is_flag=True, help='Train nothing, put together what is finished.')
@_SLURM
@_DRY_RUN
@_JSON
@click.pass_context
def cross_validate(
    ctx,
    config: str,
    folds: int,
    group_by: str | None,
    seed: int | None,
    ann_file: Path | None,
    folder: Path | None,
    jobs: int | None,
    devices: str | None,
    cfg_options: tuple,
    metric: str | None,
    at: str,
    collect: bool,
    slurm: bool,
    dry_run: bool,
    json_file: Path | None,
) -> None:
    """Train CONFIG once a fold of its training images, each time from its pretrained weights, and score the images left out.

    Prints each number over the folds, mean and standard deviation, and once over all images, each predicted out of its fold.
    CONFIG's own validation images are not used: they stay a test. The same command goes on where it was stopped: finished
    folds are skipped, broken-off ones resumed. Exit code 1: a fold did not finish. More: docs/many-runs.md.

    \b
    Examples:
      mmext cross-validate my_config.py --folds 5
      mmext cross-validate my_config.py --group-by '(.*)_frame' --devices 0,1
      mmext cross-validate my_config.py --slurm > folds.sbatch && sbatch folds.sbatch
    """
    from mmext import sweep as runs
    from mmext.analysis.cross_validation import collect as put_together

    folder = folder or Path('work_dirs', f'{Path(config).stem}-cv')
    plan = runs.plan_folds(config, cfg_options, folds, folder, group_by, seed, ann_file)
    if not slurm:
        _print_folds(plan.folds)
    crashed = [] if collect else _run(plan, jobs, devices, slurm, dry_run, f'{_typed("--slurm")} --collect')
    if crashed is None:
        return
    if crashed and not any(runs.is_finished(job) for job in plan.jobs):
        _say_crashes(crashed)
        ctx.exit(1)
    answer = put_together([job.work_dir for job in plan.jobs], plan.folds.coco.path, plan.folder, metric, at)
    answer.print()
    if json_file:
        answer.write(json_file)
    _say_crashes(crashed)
    ctx.exit(1 if crashed or answer.unfinished else 0)


def _typed(*without: str) -> str:
    """The command as it was typed, but for some of its words."""
    import shlex

    return shlex.join(['mmext', *(word for word in sys.argv[1:] if word not in without)])


def _run(plan, jobs: int | None, devices: str | None, slurm: bool, dry_run: bool, after: str) -> list[str] | None:
    """Train what a plan has left; what became of the runs that did not finish, None where only commands were wanted."""
    import shlex

    from mmext import sweep as runs
    from mmext.console import progress_bars

    slots = runs.slots_of(devices, jobs)
    if dry_run:
        for job in plan.jobs:
            state = '# finished: ' if runs.is_finished(job) else ''
            click.echo(state + shlex.join(runs.command(job, not state and runs.goes_on(job))))
        click.echo('The config files are written by the same command without --dry-run.', err=True)
        return None
    plan.write()
    if slurm:
        click.echo(runs.slurm_script(plan.jobs, plan.folder, after), nl=False)
        return None
    with progress_bars() as progress:
        return runs.run_jobs(plan.jobs, slots, lambda line: click.echo(line, err=True), progress)


def _say_crashes(crashed: list[str]) -> None:
    for line in crashed:
        click.echo(line, err=True)


@cli.command()
@click.argument('config')
@click.option(
    '--set',
    'settings',
    multiple=True,
    metavar='KEY=VALUE,VALUE...',
    help='Values of a key of the config, as --cfg-options reads them; of several keys every combination.',
)
@click.option('--seeds', metavar='LIST', help='Values of randomness.seed: 0,1,2')
@click.option(
    '--out',
    'folder',
    type=click.Path(file_okay=False, path_type=Path),
    metavar='DIR',
    help='Folder of the runs.  [default: work_dirs/CONFIG-sweep]',
)
@_JOBS
@_DEVICES
@_CFG_OPTIONS
@_SLURM
@_DRY_RUN
@_JSON
@click.pass_context
def sweep(
    ctx,
    config: str,
    settings: tuple[str, ...],
    seeds: str | None,
    folder: Path | None,
    jobs: int | None,
    devices: str | None,
    cfg_options: tuple,
    slurm: bool,
    dry_run: bool,
    json_file: Path | None,
) -> None:
    """Train CONFIG once for every value of its keys and every seed, and compare the runs.

    Keys are checked before the first training. The same command goes on where it was stopped: finished runs are skipped,
    broken-off ones resumed; more values add runs. Ends in the tables of `mmext compare`. Exit code 1: a run did not finish.

    \b
    Examples:
      mmext sweep my_config.py --set optim_wrapper.paramwise_cfg.custom_keys.roi_head.lr_mult=1,5,10,15 --seeds 0,1,2
      mmext sweep my_config.py --set optim_wrapper.optimizer.lr=0.001,0.002 --set train_cfg.max_epochs=12,24 --devices 0,1
    """
    from mmext import sweep as runs
    from mmext.analysis.compare import compare as put_together

    folder = folder or Path('work_dirs', f'{Path(config).stem}-sweep')
    plan = runs.plan_sweep(config, cfg_options, settings, seeds, folder)
    work_dirs = [job.work_dir for job in plan.jobs]
    crashed = _run(plan, jobs, devices, slurm, dry_run, f'mmext compare {plan.folder}')
    if crashed is None:
        return
    answer = put_together(work_dirs, noise=True)
    if json_file:
        json_file.write_text(answer.to_json(), encoding='utf-8')
    _print_comparison(answer)
    _say_crashes(crashed)
    ctx.exit(1 if crashed else 0)


@cli.command()
@click.argument('config')
@click.argument('checkpoint', type=click.Path(path_type=Path))
@click.argument('images', metavar='IMAGE|FOLDER|GLOB...', nargs=-1, required=True)
@click.option('--out', required=True, type=click.Path(path_type=Path), metavar='DIR', help='Folder for what is written.')
@click.option(
    '--format',
    'formats',
    default='csv,overlay',
    show_default=True,
    metavar='NAMES',
    help='What to write, any of csv, overlay, coco, coco-results, npz, label-map.',
)
@click.option(
    '--score-thr',
    default='0.5',
    show_default=True,
    metavar='NUMBER|auto',
    help="Lowest score that counts; auto: of each class the one of best F1 in the run's validation.",
)
@click.option(
    '--mask-thr',
    type=float,
    metavar='NUMBER',
    help="Probability from which a pixel is mask.  [default: CONFIG's, usually 0.5]",
)
@click.option(
    '--max-per-img', type=click.IntRange(1), metavar='N', help="Most instances an image.  [default: CONFIG's, usually 100]"
)
@click.option('--classes', metavar='NAMES', help='Keep these classes only: Fiber,Film')
@click.option('--batch-size', default=1, show_default=True, type=click.IntRange(1), help='Images of one size at a time.')
@click.option('--device', metavar='NAME', help='cpu, cuda, cuda:1.  [default: the GPU if there is one]')
@click.option(
    '--precision',
    type=click.Choice(('auto', 'bf16', 'fp32')),
    help="Faster on a CPU: bf16, or channels_last in fp32; auto: bf16 where the processor has it.  [default: MMDetection's]",
)
@click.option('--tile', type=click.IntRange(1), metavar='PX', help='Cut large images into tiles of this side and join them.')
@click.option('--overlap', default=0.2, show_default=True, type=float, help='Of neighbouring tiles, as a share of the side.')
@click.option('--pixel-size', metavar='LENGTH', help='Side of a pixel, for tables in units too: 0.65um')
@click.option(
    '--truth',
    type=click.Path(dir_okay=False, path_type=Path),
    metavar='ANN',
    help='COCO file of these images: compare counts, lengths and areas with it.',
)
@click.option('--force', is_flag=True, help='Start anew where DIR has predictions of other settings or images.')
@_CFG_OPTIONS
@click.pass_context
def predict(ctx, config, checkpoint, images, out, formats, score_thr, classes, cfg_options, **settings) -> None:
    """Find the instances of images with a trained model, and write them to DIR.

    8- and 16-bit TIFF, PNG and JPEG, grey or in colour. Folders are taken with their subfolders. A line an image on standard
    output: file, instances, and of which classes. The same command goes on where it was stopped. What each format holds:
    docs/predict.md. Exit code 1: some images could not be used; they are listed at the end.

    \b
    Examples:
      mmext predict my.py work_dirs/my/epoch_12.pth images --out found --score-thr auto --pixel-size 0.65um
      mmext predict my.py best.pth 'plate*/*.tif' --out found --format coco,overlay --classes Fiber
      mmext predict my.py best.pth slide.tif --out found --tile 1024 --overlap 0.2
    """
    from mmext.console import progress_bars
    from mmext.predict.run import Settings
    from mmext.predict.run import predict as predict_images

    asked = Settings(
        config,
        checkpoint,
        score_thr=_score_thr(score_thr),
        classes=_names(classes),
        formats=_names(formats),
        cfg_options=cfg_options,
        **settings,
    )
    with progress_bars() as progress:
        outcome = predict_images(images, out, asked, click.echo, lambda line: click.echo(line, err=True), progress)
    for line in (*outcome.lines, *(f'Wrote {file}' for file in outcome.files)):
        click.echo(line, err=True)
    if outcome.failed:
        click.echo(f'{len(outcome.failed)} images could not be used:', err=True)
        for image, reason in outcome.failed:
            click.echo(f'  {reason if str(image.path) in reason else f"{image.path}: {reason}"}', err=True)
    if outcome.crashes:
        click.echo('\nmmext crashed. That is a defect of mmext: please report it with these lines.', err=True)
        click.echo(outcome.crashes[0], err=True, nl=False)
    ctx.exit(70 if outcome.crashes else 1 if outcome.failed else 0)


def _class_map(pairs: tuple[str, ...]) -> dict[str, str | None]:
    class_map = {}
    for pair in pairs:
        new, equals, old = (word.strip() for word in pair.partition('='))
        if not new or not equals:
            raise InputError(f'--map: {pair!r} is not NEW=OLD, a class of your data and one of the checkpoint: Auto=car')
        if new in class_map:
            raise InputError(f'--map: {new!r} is given twice. A class begins as one class of the checkpoint.')
        class_map[new] = old or None
    return class_map


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(',') if name.strip())


def _score_thr(text: str) -> float | str:
    if text == 'auto':
        return text
    try:
        return float(text)
    except ValueError:
        raise InputError(f'--score-thr: {text!r} is neither a number from 0 to 1 nor auto.') from None


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
