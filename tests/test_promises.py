"""Every sentence of the documents that says never, always, same, exactly or raises: the test that holds it, by name."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORDS = re.compile(r"\b(never|always|same|exactly|raises)\b", re.IGNORECASE)
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

SAME_IMAGE = "ops/test_pixelcnn_sample.py::test_naive_raster_and_wavefront_are_equal"
SAME_BITS = "ops/test_pixelcnn_sample.py::test_logits_are_the_same_bits"
SHIPPED = "models/test_pretrained.py::test_same_noise_same_image_and_same_order_same_bits_on_the_shipped_model"
RANDOM = "sampling/test_random_decoders.py::test_same_image_and_same_bits_for_random_decoders"
ONCE = "sampling/test_sampling.py::test_every_activation_is_computed_exactly_once_and_after_what_it_reads"
NAMED = "backends/test_table.py::test_named_backend_runs_or_says_why"
DEAD = "ops/test_masked_conv.py::test_dead_weights_are_never_read"
DEAD_LINEAR = "ops/test_masked_linear.py::test_dead_weights_are_never_read"

# document, fragment of the sentence, the tests that hold it
PROMISES = [
    ("README.md", "every activation is computed exactly once", ONCE),
    ("README.md", "is drawn in the same step. The image is the same, pixel for pixel", SAME_IMAGE),
    (
        "README.md",
        "sets the decoder's window exactly",
        "models/test_decoders.py::test_receptive_field_is_what_was_asked_for",
    ),
    ("README.md", "is drawn by the same sampler, and given the noise", "models/test_decoders.py::test_naive_is_cached"),
    ("README.md", "A named backend runs or raises; nothing falls back", NAMED),
    (
        "README.md",
        "A named backend runs or raises; nothing falls back",
        "models/test_pretrained.py::test_the_shipped_model_by_name_of_a_backend_runs_or_raises",
    ),
    ("README.md", "**Same noise, same image**", SAME_IMAGE),
    ("README.md", "**Same noise, same image**", SHIPPED),
    ("README.md", "**Same noise, same image**", RANDOM),
    ("README.md", "**Same order, same bits**", SAME_BITS),
    ("README.md", "**Same order, same bits**", SHIPPED),
    (
        "README.md",
        "ours and every peer run under the same setting",
        "benchmarks/test_benchmarks.py::test_precision_is_set_and_set_back",
    ),
    (
        "docs/accelerate.md",
        "the same parameters and `state_dict`",
        "foreign/test_accelerated.py::test_parameters_stay_the_same_objects_and_state_dicts_the_same",
    ),
    (
        "docs/accelerate.md",
        "A layer that never wins gets its own class back",
        "foreign/test_accelerate_measured.py::test_what_never_wins_has_its_own_class_back",
    ),
    (
        "docs/accelerate.md",
        "a subclass of the same name",
        "foreign/test_accelerate_copies.py::test_the_class_keeps_its_name_and_comes_back",
    ),
    (
        "docs/backends.md",
        "the reference, which is always able",
        "backends/test_table.py::test_reference_runs_everything",
    ),
    (
        "docs/backends.md",
        "Given the noise they draw the same image as every row",
        "backends/test_torch.py::test_images_are_those_of_one_pass_per_pixel",
    ),
    ("docs/backends.md", "A named backend runs or raises", NAMED),
    ("docs/backends.md", "a sampler's logits have the same bits for any", SAME_BITS),
    ("docs/backends.md", "a sampler's logits have the same bits for any", SHIPPED),
    (
        "docs/codec.md",
        "must compute the same probabilities",
        "codec/test_numbers.py::test_every_machine_has_these_bits",
    ),
    (
        "docs/codec.md",
        "must compute the same probabilities",
        "codec/test_lossless.py::test_the_file_is_the_same_for_any_number_of_threads",
    ),
    ("docs/codec.md", "raises `codec.FileError`", "codec/test_container.py::test_every_changed_bit_is_an_error"),
    (
        "docs/codec_portable.md",
        "Two machines compute the same number, because each number is made by the same operations in the same order",
        "codec/test_portable_bits.py::test_every_machine_has_these_bits",
    ),
    ("docs/codec.md", "raises `codec.FileError`", "codec/test_container.py::test_every_cut_is_an_error"),
    (
        "docs/codec_portable.md",
        "of [lossy](lossy.md) ones z is the same on every machine",
        "codec/test_portable.py::test_lossy_files_too",
    ),
    (
        "docs/lossy.md",
        "z is the same number everywhere, and so are the parameters of the pixels",
        "codec/test_portable.py::test_lossy_files_too",
    ),
    ("docs/lossy.md", "[every machine decodes]", "codec/test_portable.py::test_lossy_files_too"),
    (
        "docs/lossy.md",
        "a file gives the same ones each time, alone or beside others",
        "codec/test_lossy.py::test_images_are_those_of_the_codes",
    ),
    ("docs/extending.md", "its gradient is exactly 0", DEAD),
    ("docs/extending.md", "weight is never read, so that NaN there changes nothing", DEAD),
    ("docs/extending.md", "its gradient is exactly 0", DEAD_LINEAR),
    (
        "docs/flows.md",
        "gives a model's flows the same",
        "foreign/test_accelerated_flows.py::test_flows_are_accelerated_with_the_rest",
    ),
    ("docs/flows.md", "# the same call", "foreign/test_flows.py::test_same_call_and_same_numbers"),
    ("docs/flows.md", "the same one in all of a flow", "foreign/test_flows.py::test_what_is_not_covered_is_left_alone"),
    ("docs/glossary.md", "the others are dead, are never read and have gradient 0", DEAD),
    ("docs/glossary.md", "the others are dead, are never read and have gradient 0", DEAD_LINEAR),
    ("docs/index.md", "why the image stays the same", SAME_IMAGE),
    (
        "docs/index.md",
        "The same module draws images",
        "foreign/test_fast_sampler.py::test_images_are_those_of_the_naive_sampler",
    ),
    ("docs/index.md", "the same image from the fast sampler", "test_examples.py::test_accelerate_pixelcnn"),
    (
        "docs/index.md",
        "the same seed, the same result",
        "commands/test_cli.py::test_sample_writes_the_same_png_for_the_same_seed",
    ),
    (
        "docs/index.md",
        "the same seed, the same result",
        "training/test_training.py::test_same_seed_same_model_and_the_random_state_is_left_alone",
    ),
    (
        "docs/images.md",
        "a resumed run validates on the same images",
        "data/test_own_images.py::test_training_takes_a_loader_and_resumes_bit_for_bit",
    ),
    (
        "docs/security.md",
        "What a checkpoint names as its data is never imported",
        "commands/test_cli_terminal.py::test_a_name_in_a_checkpoint_is_never_imported",
    ),
    (
        "docs/security.md",
        "`vlae_fast` never takes them from",
        "checkpoint/test_checkpoint.py::test_tensors_that_do_not_fit",
    ),
    (
        "docs/scale.md",
        "the same command goes on, image by image",
        "generation/test_shards.py::test_what_is_written_is_not_drawn_again",
    ),
    (
        "docs/scale.md",
        "the same command goes on, image by image",
        "evaluation/test_evaluation_processes.py::test_what_is_known_is_not_computed_again",
    ),
    (
        "docs/steps.md",
        "The parameters have the bits that `sample` draws from, given the same pixels",
        "sampling/test_steps.py::test_parameters_are_those_of_sample_given_the_same_pixels",
    ),
    (
        "docs/precision.md",
        "logits have the same bits whatever the batch, the threads, the order, in steps or in one call",
        "sampling/test_bfloat16.py::test_logits_are_the_same_bits",
    ),
    (
        "docs/precision.md",
        "logits have the same bits whatever the batch, the threads, the order, in steps or in one call",
        "sampling/test_bfloat16.py::test_steps_scores_and_refreshing",
    ),
    (
        "docs/wavefront.md",
        "has no schedule, and making its sampler raises",
        "sampling/test_sampling.py::test_a_decoder_that_reads_a_pixel_yet_to_be_drawn_raises",
    ),
    ("docs/wavefront.md", "Why the image stays the same", SAME_IMAGE),
    ("docs/wavefront.md", "each sees the same inputs", ONCE),
    (
        "docs/wavefront.md",
        "each also sees the same random number. And a kernel adds the terms of a pixel in the same order",
        SAME_BITS,
    ),
    ("vlae_fast/ops/masked_conv.py", "Dead entries are never read", DEAD),
    ("vlae_fast/ops/masked_linear.py", "Dead entries are never read", DEAD_LINEAR),
    (
        "vlae_fast/ops/made.py",
        "Dead entries of a weight are never",
        "ops/test_made.py::test_dead_weights_are_never_read",
    ),
    (
        "vlae_fast/layers/linear.py",
        "never sees ``x[:, k % D:]``",
        "ops/test_masked_linear.py::test_made_jacobian_is_exactly_zero_ahead",
    ),
    (
        "vlae_fast/layers/conv.py",
        "the same parameters and state_dict",
        "models/test_models.py::test_layer_state_dict_is_that_of_a_plain_conv",
    ),
    ("vlae_fast/sampling/sampler.py", "every activation computed exactly once", ONCE),
    ("vlae_fast/sampling/sampler.py", "step. The images are the same", SAME_IMAGE),
    (
        "vlae_fast/sampling/sampler.py",
        "the same bits whatever the batch, the number of threads or the order",
        SAME_BITS,
    ),
    (
        "vlae_fast/foreign/accelerate.py",
        "nothing is replaced that is not the same function",
        "foreign/test_accelerate.py::test_what_is_not_the_same_is_left_alone",
    ),
    (
        "vlae_fast/backends/cpu.py",
        "never an ImportError",
        "test_packaging.py::test_a_library_that_cannot_be_loaded_is_a_reason",
    ),
    (
        "vlae_fast/backends/cuda.py",
        "never an ImportError",
        "backends/test_cuda.py::test_a_torch_without_cuda_is_the_reason",
    ),
    ("vlae_fast/backends/triton.py", "never an ImportError", "backends/test_table.py::test_triton_says_why_not"),
    ("vlae_fast/backends/table.py", "a named backend runs or raises with its reason", NAMED),
    (
        "vlae_fast/data/fetch.py",
        "never without a published checksum",
        "data/test_data_fetch.py::test_every_download_has_a_checksum_and_a_layout_that_reads_it",
    ),
    (
        "vlae_fast/data/images.py",
        "1 where byte / 255 >= 0.5, always",
        "data/test_data.py::test_threshold_is_at_one_half",
    ),
    (
        "vlae_fast/models/posterior.py",
        "exactly",
        "models/test_priors.py::test_flow_posterior_is_scored_exactly_as_a_gaussian",
    ),
    (
        "vlae_fast/training/settings.py",
        "a resumed run must have the same",
        "training/test_training_resume.py::test_resume_needs_the_same_settings",
    ),
    ("vlae_fast/reference/__init__.py", "no kernel imports it", "test_imports.py::test_imports_run_one_way"),
    (
        "docs/lookups.md",
        "find the level, exactly",
        "foreign/test_lookups.py::test_rows_are_those_of_the_table_to_the_last_bit",
    ),
    (
        "docs/tutorials.md",
        "the same call; z reaches the pixels as a map, so that it is used",
        "models/test_use_of_z.py::test_the_default_uses_z",
    ),
    ("docs/tutorials.md", "the same five; the fifth is", "models/test_models.py::test_tutorial_calls"),
    (
        "docs/tutorials.md",
        "the same call: nats, summed over the batch",
        "models/test_models.py::test_loss_is_the_negative_elbo",
    ),
    (
        "docs/tutorials.md",
        "the same loop; its logits are",
        "models/test_tutorial_traversal.py::test_the_loop_is_the_decoder",
    ),
    (
        "docs/tutorials.md",
        "the same; `model.encode(x)` too",
        "models/test_encode_decode.py::test_encode_is_what_the_encoder_gives",
    ),
    (
        "docs/tutorials.md",
        "the same check holds",
        "ops/test_masked_linear.py::test_made_jacobian_is_exactly_zero_ahead",
    ),
    (
        "docs/tutorials.md",
        "the same call; padding is",
        "models/test_models.py::test_layer_state_dict_is_that_of_a_plain_conv",
    ),
    (
        "docs/tutorials.md",
        "has the same expectation",
        "data/test_data.py::test_dynamic_binarization_is_redrawn_and_unbiased",
    ),
    (
        "docs/tutorials.md",
        "the same call, in `vlae_fast.visualization`",
        "visualization/test_notebook_pictures.py::test_the_tutorials_notebook_has_its_pictures",
    ),
    (
        "docs/tutorials.md",
        "the same call: `vlae-fast sample`",
        "visualization/test_notebook_pictures.py::test_the_tutorials_notebook_has_its_pictures",
    ),
    (
        "docs/tutorials.md",
        "the same call: columns keep",
        "visualization/test_visualization.py::test_columns_and_bars_have_the_dimensions_number",
    ),
    (
        "docs/models.md",
        "ends with the same weights as a run without a stop",
        "training/test_recipes.py::test_a_recipe_trains_and_goes_on_bit_for_bit",
    ),
    ("docs/ising.md", "same spins: True", "test_ising.py::test_fast_spins_are_the_naive_ones"),
    (
        "docs/ising.md",
        "The energy is the same with all spins turned over",
        "test_ising.py::test_network_is_a_distribution_that_is_the_same_turned_over",
    ),
    (
        "docs/gpu.md",
        "a test holds both to the same launches",
        "kernels/test_kept_binaries.py::test_steps",
    ),
]

# Sentences with one of the words that promise nothing.
NO_PROMISES = [
    ("README.md", "everything built of the same parts"),
    ("README.md", "in the case's dtype in the same run"),
    ("README.md", "on a GPU 1 GiB, in the same run"),
    ("README.md", "the same restriction makes the wavefront wide"),
    ("docs/extending.md", "formula, shapes, dtypes, Raises, source"),
    ("docs/glossary.md", "is always called so"),
    ("docs/glossary.md", "Two other rows are always named"),
    ("docs/glossary.md", "all that is the same for every backend"),
    ("docs/index.md", "Arguments that mean the same everywhere"),
    ("docs/watching.md", 'warnings.simplefilter("always")'),
    ("docs/tutorials.md", "walk through the same ground"),
    ("docs/wavefront.md", "the same restriction makes the wavefront wide"),
]


def flat(text: str) -> str:
    """On one line, and without the marks of a comment that goes on."""
    return " ".join(text.split())


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize(("document", "fragment", "test"), PROMISES)
def test_a_promise_stands_and_a_test_holds_it(document: str, fragment: str, test: str) -> None:
    assert fragment in flat((ROOT / document).read_text(encoding="utf-8")), f"{document} no longer says {fragment!r}"
    file, name = test.split("::")
    assert name in names_in(ROOT / "tests" / file), f"{file} has no {name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_sentence_with_such_a_word_is_in_a_table(document: Path) -> None:
    """A new promise in the documents asks for its test."""
    name = document.relative_to(ROOT).as_posix()
    text = flat(document.read_text(encoding="utf-8"))
    covered = [False] * len(text)
    for row in [*PROMISES, *NO_PROMISES]:
        if row[0] == name:
            at = text.find(row[1])
            assert at >= 0, f"{name} no longer says {row[1]!r}"
            while at >= 0:
                covered[at : at + len(row[1])] = [True] * len(row[1])
                at = text.find(row[1], at + 1)
    open_ones = [text[max(0, m.start() - 60) : m.end() + 60] for m in WORDS.finditer(text) if not covered[m.start()]]
    assert not open_ones, f"{name}: no test is named for\n" + "\n".join(open_ones)
