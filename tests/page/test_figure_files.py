import pytest
from PIL import Image

from mmext.analysis.compare import compare
from mmext.page.figure_files import write_figures
from mmext.page.html_page import page_of


def test_every_section_is_a_png_of_300_dpi_and_a_pdf_with_vectors(shown_runs, tmp_path):
    written = write_figures(page_of(compare([shown_runs], curves=True)), tmp_path / 'new' / 'figures')
    assert sorted(file.name for file in written) == sorted(
        f'{key}.{kind}' for key in ('ap', 'losses', 'shares', 'rates') for kind in ('png', 'pdf')
    )
    for file in written:
        if file.suffix == '.png':
            with Image.open(file) as picture:
                assert picture.info['dpi'] == pytest.approx((300, 300), abs=0.1)
                assert len(picture.getcolors(1 << 24)) > 50  # not an empty sheet
        else:
            data = file.read_bytes()
            assert data.startswith(b'%PDF')
            assert b'/Subtype /Image' not in data
