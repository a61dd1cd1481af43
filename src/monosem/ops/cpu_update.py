"""Moving latents on the CPU: a latent's gradient rows are summed over its tokens and used at once."""

from typing import Any

import numpy as np
from numba import prange

from monosem.ops.compiled import inner, kernel, rounded_bits, widen
from monosem.ops.reference import BETAS, EPSILON

# Latents a thread moves at a time; sums over latents are cut at the same places whatever the number of threads.
LATENTS_A_CHUNK = 64


@inner
def count(starts: Any, indices: Any) -> None:
    for j in range(len(indices)):
        starts[indices[j] + 1] += 1


@inner
def place(ends: Any, indices: Any, row_offsets: Any, coefficients: Any, tokens: Any, of_input: Any) -> None:
    for t in range(len(row_offsets) - 1):
        for j in range(row_offsets[t], row_offsets[t + 1]):
            entry = ends[indices[j]]
            ends[indices[j]] = entry + 1
            tokens[entry] = t
            of_input[entry] = coefficients[j]


@inner
def place_values(ends: Any, indices: Any, values: Any, scale: Any, of_residual: Any) -> None:
    for j in range(len(indices)):
        entry = ends[indices[j]]
        ends[indices[j]] = entry + 1
        of_residual[entry] = scale * values[j]


@inner
def gradient_of(
    i: int,
    starts: Any,
    tokens: Any,
    of_input: Any,
    of_residual: Any,
    x: Any,
    residuals: Any,
    row_of: Any,
    encoder_rows: Any,
    biases: Any,
    decoder_rows: Any,
    W_dec: Any,
    of_W_enc: Any,
    of_W_dec: Any,
) -> Any:
    """Latent i's gradient rows, the decoder's without its component along the decoder row.

    Returns b_enc's gradient, and the part of it that the terms make, without the auxiliary loss.
    """
    d = x.shape[1]
    of_W_enc[:] = 0
    of_W_dec[:] = 0
    of_b_enc = np.float32(0)
    for entry in range(starts[i], starts[i + 1]):
        t = tokens[entry]
        coefficient = of_input[entry]
        if coefficient != 0:
            of_b_enc += coefficient
            row = x[t]
            for c in range(d):
                of_W_enc[c] += coefficient * row[c]
        for term in range(len(residuals)):
            coefficient = of_residual[entry, term]
            if coefficient != 0:
                row = residuals[term, t]
                for c in range(d):
                    of_W_dec[c] += coefficient * row[c]
    by_terms = of_b_enc
    if row_of[i] >= 0:
        more = np.empty(d, np.float32)
        of_b_enc += biases[row_of[i]]
        widen(encoder_rows[row_of[i]], more)
        for c in range(d):
            of_W_enc[c] += more[c]
        widen(decoder_rows[row_of[i]], more)
        for c in range(d):
            of_W_dec[c] += more[c]
    along = np.float32(0)
    for c in range(d):
        along += of_W_dec[c] * W_dec[i, c]
    for c in range(d):
        of_W_dec[c] -= along * W_dec[i, c]
    return of_b_enc, by_terms


@inner
def add_row(of_pre_activation: Any, row: Any, of_inputs: Any) -> None:
    """A pre-activation contains its input by W_enc's row."""
    if of_pre_activation != 0:
        for c in range(len(row)):
            of_inputs[c] += of_pre_activation * row[c]


@kernel
def square_sums(
    starts: Any,
    tokens: Any,
    of_input: Any,
    of_residual: Any,
    x: Any,
    residuals: Any,
    row_of: Any,
    encoder_rows: Any,
    biases: Any,
    decoder_rows: Any,
    W_enc: Any,
    W_dec: Any,
    sums: Any,
    of_inputs: Any,
) -> None:
    n, d = W_dec.shape
    for chunk in prange(len(sums)):
        of_W_enc = np.empty(d, np.float32)
        of_W_dec = np.empty(d, np.float32)
        for i in range(chunk * LATENTS_A_CHUNK, min(chunk * LATENTS_A_CHUNK + LATENTS_A_CHUNK, n)):
            of_b_enc, by_terms = gradient_of(
                i,
                starts,
                tokens,
                of_input,
                of_residual,
                x,
                residuals,
                row_of,
                encoder_rows,
                biases,
                decoder_rows,
                W_dec,
                of_W_enc,
                of_W_dec,
            )
            add_row(by_terms, W_enc[i], of_inputs[chunk])
            sums[chunk, 1] += of_b_enc * of_b_enc
            for c in range(d):
                sums[chunk, 0] += of_W_enc[c] * of_W_enc[c]
                sums[chunk, 2] += of_W_dec[c] * of_W_dec[c]


@inner
def round_row(x: Any, bits: Any, offset: int, seed: Any) -> None:
    """See ``reference.round_stochastically``; the row starts at entry ``offset`` of its tensor."""
    wide = x.view(np.int32)
    for c in range(len(bits)):
        noise = np.uint32(np.uint32(offset + c) * np.uint32(0x9E3779B1) + seed * np.uint32(0x85EBCA77))
        noise = np.uint32((noise ^ (noise >> np.uint32(15))) * np.uint32(0x2C1B3C6D))
        noise = np.uint32((noise ^ (noise >> np.uint32(12))) * np.uint32(0x297A2D39))
        noise = (noise ^ (noise >> np.uint32(15))) & np.uint32(0xFFFF)
        bits[c] = np.int16((wide[c] + np.int32(noise)) >> 16)


@inner
def adam_in_float32(weight: Any, first: Any, second: Any, gradient: Any, numbers: Any) -> None:
    b1, b2, epsilon = np.float32(BETAS[0]), np.float32(BETAS[1]), np.float32(EPSILON)
    rest1, rest2 = np.float32(1 - BETAS[0]), np.float32(1 - BETAS[1])
    scale, rate, correction = numbers[0], numbers[1], numbers[2]
    for c in range(len(weight)):
        g = scale * gradient[c]
        m = b1 * first[c] + rest1 * g
        v = b2 * second[c] + rest2 * g * g
        first[c] = m
        second[c] = v
        weight[c] -= rate * m / (np.sqrt(v) * correction + epsilon)


@inner
def adam_row(
    weight: Any, first: Any, second: Any, gradient: Any, numbers: Any, scratch: Any, offset: int, seed: Any
) -> None:
    """One step of Adam for a row, in place; moments may be bfloat16's bits."""
    if first.itemsize == 2:
        widen(first, scratch[0])
        widen(second, scratch[1])
        adam_in_float32(weight, scratch[0], scratch[1], gradient, numbers)
        round_row(scratch[0], first, offset, np.uint32(2 * seed))
        round_row(scratch[1], second, offset, np.uint32(2 * seed + 1))
    else:
        adam_in_float32(weight, first, second, gradient, numbers)


@inner
def copy_row(weight: Any, average: Any, rounded: Any, i: int, share: Any) -> None:
    """Move a row's running average and renew its bfloat16 copy (to nearest, ties to even), where there are any."""
    if len(average) > 0:
        for c in range(len(weight)):
            average[i, c] += share * (weight[c] - average[i, c])
    if len(rounded) > 0:
        bits = weight.view(np.int32)
        for c in range(len(weight)):
            rounded[i, c] = rounded_bits(bits[c], rounded)


@kernel
def move_latents(
    starts: Any,
    tokens: Any,
    of_input: Any,
    of_residual: Any,
    x: Any,
    residuals: Any,
    row_of: Any,
    encoder_rows: Any,
    biases: Any,
    decoder_rows: Any,
    W_enc: Any,
    W_enc_first: Any,
    W_enc_second: Any,
    W_enc_average: Any,
    W_enc_rounded: Any,
    b_enc: Any,
    b_enc_first: Any,
    b_enc_second: Any,
    b_enc_average: Any,
    b_enc_rounded: Any,
    W_dec: Any,
    W_dec_first: Any,
    W_dec_second: Any,
    W_dec_average: Any,
    W_dec_rounded: Any,
    numbers: Any,
    seed: Any,
    of_inputs: Any,
) -> None:
    """Move every latent; add up, by chunks of latents, the inputs' gradient."""
    n, d = W_dec.shape
    for chunk in prange((n + LATENTS_A_CHUNK - 1) // LATENTS_A_CHUNK):
        of_W_enc = np.empty(d, np.float32)
        of_W_dec = np.empty(d, np.float32)
        of_b_enc = np.empty(1, np.float32)
        scratch = np.empty((2, d), np.float32)
        for i in range(chunk * LATENTS_A_CHUNK, min(chunk * LATENTS_A_CHUNK + LATENTS_A_CHUNK, n)):
            of_b_enc[0], by_terms = gradient_of(
                i,
                starts,
                tokens,
                of_input,
                of_residual,
                x,
                residuals,
                row_of,
                encoder_rows,
                biases,
                decoder_rows,
                W_dec,
                of_W_enc,
                of_W_dec,
            )
            add_row(by_terms, W_enc[i], of_inputs[chunk])
            adam_row(W_dec[i], W_dec_first[i], W_dec_second[i], of_W_dec, numbers, scratch, i * d, seed)
            length = np.float32(0)
            for c in range(d):
                length += W_dec[i, c] * W_dec[i, c]
            if length > 0:
                length = np.float32(1) / np.sqrt(length)
                for c in range(d):
                    W_dec[i, c] *= length
            copy_row(W_dec[i], W_dec_average, W_dec_rounded, i, numbers[3])
            adam_row(W_enc[i], W_enc_first[i], W_enc_second[i], of_W_enc, numbers, scratch, i * d, seed)
            copy_row(W_enc[i], W_enc_average, W_enc_rounded, i, numbers[3])
            if len(b_enc) > 0:
                adam_row(b_enc[i], b_enc_first[i], b_enc_second[i], of_b_enc, numbers, scratch, i, seed)
                copy_row(b_enc[i], b_enc_average, b_enc_rounded, i, numbers[3])
