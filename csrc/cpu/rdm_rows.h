// Loops over one pattern, compiled per instruction set (rdm_rows.cpp). S is the type in storage, T the one that is computed in. What is
// prepared once per element is prepared in double: a channel's mean, subtracted from a rounded value, would leave its rounding error.
#pragma once

#include "common/element.h"
#include "cpu/rdm_products.h"

namespace nk::rdm {

/// The mean of a row, taken relative to its first element: of a constant row it is that element.
template <class S>
double mean_of(const S* x, int64_t n);

/// The sum of (x - shift)^2.
template <class S>
double squares_of(const S* x, int64_t n, double shift);

/// sums += (x - shift) * factor, where that is finite.
template <class S>
void add_finite(const S* x, int64_t n, double shift, double factor, double* sums);

/// sums += x - centre.
template <class S>
void add_row(const S* x, int64_t n, const double* centre, double* sums);

/// out = (x - shift) * factor - centre.
template <class S, class T>
void affine_row(const S* x, int64_t n, double shift, double factor, const double* centre, T* out);

/// out = log((x - shift) * factor) - centre.
template <class S, class T>
void log_row(const S* x, int64_t n, double shift, double factor, const double* centre, T* out);

/// The sum of (x - shift) * c.
template <class S, class T>
double inner_row(const S* x, const T* c, int64_t n, double shift);

/// out = scale * ((h + hs) - k); returns how many of these are not above `near` times h + hs, before the scale.
template <class T>
int64_t distance_row(const T* k, T h, const T* hs, int64_t n, T near, T scale, T* out);

/// out = sqrt(out).
template <class T>
void root_row(T* out, int64_t n);

/// sums[l] += half the sum over k of (a_k - as[k][l]) (b_k - bs[k][l]) for a line of patterns. Those of a and b are a line apart too.
template <class T>
void direct_line(const T* a, const T* b, const T* as, const T* bs, int64_t depth, double* sums);

/// out += w * (x - y).
template <class S, class T>
void add_difference(const S* x, const S* y, int64_t n, T w, T* out);

/// The sum of ((x - x_shift) x_factor - (y - y_shift) y_factor)^2.
template <class S>
double squares_apart(const S* x, const S* y, int64_t n, double x_shift, double x_factor, double y_shift, double y_factor);

/// The sum of (p - q) (log p - log q) with rates p = (x - shift) * factor, and q those of y.
template <class S>
double rates_apart(const S* x, const S* y, int64_t n, double shift, double factor);

/// out = factor * (c - mean - (x - shift) * by), rounded; `mean` is that of c, or 0.
template <class S, class T>
void project_row(const T* c, int64_t n, double mean, const S* x, double shift, double by, double factor, S* out);

/// out = factor * (c + c2 / ((x - shift) * rate)), rounded.
template <class S, class T>
void rate_row(const T* c, const T* c2, int64_t n, const S* x, double shift, double rate, double factor, S* out);

/// out = factor * c, rounded.
template <class S, class T>
void scaled_row(const T* c, int64_t n, double factor, S* out);

}  // namespace nk::rdm
