// One source for torch 2.11 to 2.15: what torch-sys 0.26 (written for torch 2.13) calls and another torch lacks.
//
// .cargo/config.toml includes this file in front of torch-sys's own C++ (and asks for C++20, which the headers of torch
// 2.15 need). pipa calls none of these functions; they only have to compile, and say so if they are ever called.
#pragma once

#include <ATen/ATen.h>
#include <torch/version.h>

#if !defined(TORCH_VERSION_MAJOR) || TORCH_VERSION_MAJOR != 2
#error "pipa-rs builds against torch 2.11 to 2.15"
#endif

namespace torch {
using namespace at;

#if TORCH_VERSION_MINOR >= 15
// Removed from torch 2.15; linalg_* are their successors.
inline at::Tensor cholesky(const at::Tensor& self, bool upper) {
  return at::linalg_cholesky(self, upper);
}
inline at::Tensor cholesky_out(at::Tensor& out, const at::Tensor& self, bool upper) {
  return at::linalg_cholesky_out(out, self, upper);
}
inline std::tuple<at::Tensor, at::Tensor> qr(const at::Tensor& self, bool some) {
  return at::linalg_qr(self, some ? "reduced" : "complete");
}
inline std::tuple<at::Tensor, at::Tensor> qr_out(at::Tensor& q, at::Tensor& r, const at::Tensor& self, bool some) {
  return at::linalg_qr_out(q, r, self, some ? "reduced" : "complete");
}
#endif

#if TORCH_VERSION_MINOR < 13
// Newer than this torch. The templates take whatever torch-sys passes.
#define PIPA_NOT_IN_THIS_TORCH(type, name)                                      \
  template <class... Arguments>                                                 \
  inline type name(Arguments&&...) {                                            \
    TORCH_CHECK(false, #name " needs torch 2.13, this is torch ", TORCH_VERSION); \
  }
PIPA_NOT_IN_THIS_TORCH(at::Tensor, _flash_attention_forward_no_dropout_inplace)
PIPA_NOT_IN_THIS_TORCH(at::Tensor, _philox_key_fold_in)
PIPA_NOT_IN_THIS_TORCH(at::Tensor, _philox_key_split)
PIPA_NOT_IN_THIS_TORCH(at::Tensor, _philox_normal)
PIPA_NOT_IN_THIS_TORCH(at::Tensor, _philox_normal_)
PIPA_NOT_IN_THIS_TORCH(at::Tensor, _philox_normal_out)
PIPA_NOT_IN_THIS_TORCH(at::Tensor, _philox_uniform)
PIPA_NOT_IN_THIS_TORCH(at::Tensor, _philox_uniform_)
PIPA_NOT_IN_THIS_TORCH(at::Tensor, _philox_uniform_out)
PIPA_NOT_IN_THIS_TORCH(at::Tensor, _upsample_lanczos2d_aa)
PIPA_NOT_IN_THIS_TORCH(at::Tensor, _upsample_lanczos2d_aa_out)
PIPA_NOT_IN_THIS_TORCH(at::Tensor, _upsample_lanczos2d_aa_backward)
PIPA_NOT_IN_THIS_TORCH(at::Tensor, _upsample_lanczos2d_aa_backward_out)
#define PIPA_TWO_TENSORS std::tuple<at::Tensor, at::Tensor>
// Its arguments changed with torch 2.13; it runs on Apple's GPUs only.
PIPA_NOT_IN_THIS_TORCH(PIPA_TWO_TENSORS, _scaled_dot_product_attention_math_for_mps)
#endif
} // namespace torch
