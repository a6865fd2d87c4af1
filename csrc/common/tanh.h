// A rational tanh in float: x P(x^2) / Q(x^2), a minimax fit in relative error, 4e-7 with rounding. From kMost on it is 1.
#pragma once

namespace nk::tanh {

constexpr float kMost = 8.0f;
constexpr float kP3 = 1.1428480320319068e-05f, kP2 = 0.002951029920950532f, kP1 = 0.1292566955089569f, kP0 = 0.9999998807907104f;
constexpr float kQ4 = 2.4592273462076264e-07f, kQ3 = 0.00023866997798904777f, kQ2 = 0.02381558157503605f, kQ1 = 0.4625888466835022f;

}  // namespace nk::tanh
