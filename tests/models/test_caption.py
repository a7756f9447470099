"""Images of digits, and the words that are said of them."""

import pytest
import torch

from rnnx_models.caption_rnn import LONGEST, VOCABULARY, WORDS, captions, digit_image


@pytest.mark.parametrize("digit", range(10))
def test_an_image_is_made_of_values_from_0_to_1(digit):
    clean, noisy = digit_image(digit), digit_image(digit, torch.Generator().manual_seed(digit))
    for image in (clean, noisy):
        assert (image.shape, image.dtype) == ((16, 16), torch.float32)
        assert image.min() >= 0
        assert image.max() <= 1
    assert clean.sum() > 20
    assert not torch.equal(clean, noisy)


def test_digits_look_different_and_like_themselves():
    clean = torch.stack([digit_image(digit) for digit in range(10)]).flatten(1)
    alike = torch.nn.functional.cosine_similarity(clean[:, None], clean[None], dim=2)
    assert (alike - torch.eye(10)).max() < 0.95
    top_of_seven, stem_of_seven = digit_image(7)[1:3], digit_image(7)[-4:-2]
    assert top_of_seven.sum() > 1.5 * stem_of_seven.sum()


def test_the_same_generator_draws_the_same_image():
    assert torch.equal(digit_image(3, torch.Generator().manual_seed(1)), digit_image(3, torch.Generator().manual_seed(1)))


def test_a_caption_ends_where_its_end_is_said():
    class Speller(torch.nn.Module):
        """Says the word of the digit that its image is filled with."""

        def forward(self, image, tokens):
            words = [WORDS[int(pixels[0, 0, 0])].ljust(LONGEST, ">") for pixels in image]
            said = torch.tensor([[VOCABULARY.index(char) for char in word] for word in words])[:, : tokens.size(1)]
            return torch.nn.functional.one_hot(said, len(VOCABULARY)).float()

    images = torch.arange(10.0)[:, None, None, None].expand(10, 1, 16, 16)
    assert captions(Speller(), images) == list(WORDS)


def test_the_vocabulary_begins_with_the_start(make):
    recipe = make("caption_rnn")
    assert VOCABULARY[0] == recipe.sampling().prompt == "<"
    assert set("".join(WORDS)) | set("<>") == set(VOCABULARY)
    image, tokens = recipe.example()
    assert (image.shape, tokens.shape) == ((2, 1, 16, 16), (2, 6))
    assert [recipe.codec().decode(row) for row in tokens] == ["<three", "<seven"]
