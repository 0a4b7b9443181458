"""
A Llama thinks as test_latent.py says: the same tests, but for those that look into a GPT-2; with speed/fast.py, too.
"""

import naive
import pytest

from test_latent import *  # noqa: F403

# These look at GPT-2's own layers, or at positions that it does not have.
del test_states_of_all_layers, test_reads_past_block_size_are_refused  # noqa: F821
del test_gradient_reaches_the_question_through_the_last_thought  # noqa: F821


@pytest.fixture(params=["llama", "llama fast"])
def tiny(request):
    return naive.maker_of_models(request.param)
