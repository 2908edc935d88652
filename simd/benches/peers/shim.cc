// SPDX-License-Identifier: Apache-2.0
//
// C functions over the peers that have C++ interfaces: hnswlib from its headers, FAISS from its
// shared library. The wheel of FAISS has no headers, so what is used of it is declared here; every
// result is compared with ours, which a wrong declaration would not survive.

#include <dlfcn.h>

#include <string>

#include "hnswlib.h"

extern "C" {

typedef float (*float_distance)(const void *, const void *, const void *);
typedef int (*int_distance)(const void *, const void *, const void *);

float_distance hnswlib_l2_f32(size_t dim)
{
	return hnswlib::L2Space(dim).get_dist_func();
}

float_distance hnswlib_ip_f32(size_t dim)
{
	return hnswlib::InnerProductSpace(dim).get_dist_func();
}

int_distance hnswlib_l2_u8(size_t dim)
{
	return hnswlib::L2SpaceI(dim).get_dist_func();
}

int hnswlib_has_avx512(void)
{
#if defined(USE_AVX512)
	return AVX512Capable();
#else
	return 0;
#endif
}

} // extern "C"

namespace faiss_abi {

// faiss::DistanceComputer and the beginning of faiss::FlatCodesDistanceComputer.
struct DistanceComputer {
	virtual void set_query(const float *x) = 0;
	virtual float operator()(int64_t i) = 0;
	virtual void distances_batch_4(int64_t i0, int64_t i1, int64_t i2, int64_t i3,
				       float &d0, float &d1, float &d2, float &d3) = 0;
	virtual float symmetric_dis(int64_t i, int64_t j) = 0;
	virtual ~DistanceComputer() {}
};

struct FlatCodesDistanceComputer : DistanceComputer {
	const uint8_t *codes;
	size_t code_size;
};

} // namespace faiss_abi

using faiss_abi::FlatCodesDistanceComputer;

static void *faiss;

extern "C" {

// Null if it worked, else what went wrong.
const char *faiss_open(const char *path)
{
	faiss = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	return faiss ? nullptr : dlerror();
}

void *faiss_symbol(const char *name)
{
	return dlsym(faiss, name);
}

// The string a static function `name` of FAISS returns.
const char *faiss_string(const char *name)
{
	static std::string text;
	auto function = (std::string(*)())dlsym(faiss, name);
	text = function ? function() : "?";
	return text.c_str();
}

// A distance computer over `rows`; `metric` is faiss::MetricType, `type` a ScalarQuantizer::QuantizerType.
void *faiss_sq_new(int metric, int type, size_t dim)
{
	typedef void (*constructor)(void *, size_t, int);
	typedef FlatCodesDistanceComputer *(*getter)(const void *, int);
	auto construct = (constructor)dlsym(faiss, "_ZN5faiss15ScalarQuantizerC1EmNS0_13QuantizerTypeE");
	auto get = (getter)dlsym(faiss, "_ZNK5faiss15ScalarQuantizer21get_distance_computerENS_10MetricTypeE");
	if (!construct || !get)
		return nullptr;
	// Room for the quantizer, which the computer may refer to: neither is ever freed.
	void *quantizer = aligned_alloc(64, 4096);
	construct(quantizer, dim, type);
	return get(quantizer, metric);
}

void faiss_sq_run(void *computer, const float *query, const uint8_t *rows, size_t stride, size_t n, float *out)
{
	auto c = (FlatCodesDistanceComputer *)computer;
	c->codes = rows;
	c->code_size = stride;
	c->set_query(query);
	for (size_t i = 0; i < n; i++)
		out[i] = (*c)(i);
}

void faiss_sq_run4(void *computer, const float *query, const uint8_t *rows, size_t stride, size_t n, float *out)
{
	auto c = (FlatCodesDistanceComputer *)computer;
	size_t i = 0;
	c->codes = rows;
	c->code_size = stride;
	c->set_query(query);
	for (; i + 4 <= n; i += 4)
		c->distances_batch_4(i, i + 1, i + 2, i + 3, out[i], out[i + 1], out[i + 2], out[i + 3]);
	for (; i < n; i++)
		out[i] = (*c)(i);
}

} // extern "C"
