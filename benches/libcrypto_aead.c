/* What bench_aead.py compares with: one libcrypto call sequence per packet, the whole batch in one call of ours. */
#include <openssl/evp.h>
#include <stdint.h>
#include <string.h>

int seal_many(uint8_t *slab, const uint32_t *offset, const uint32_t *length, const uint8_t key[32], const uint64_t *counter,
              int n) {
  EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
  int ok = context && EVP_EncryptInit_ex(context, EVP_chacha20_poly1305(), NULL, key, NULL), written;
  for (int i = 0; ok && i < n; i++) {
    uint8_t nonce[12] = {0}, *packet = slab + offset[i];
    memcpy(nonce + 4, &counter[i], 8);
    ok = EVP_EncryptInit_ex(context, NULL, NULL, NULL, nonce) &&
         EVP_EncryptUpdate(context, packet, &written, packet, (int)length[i]) &&
         EVP_EncryptFinal_ex(context, packet + length[i], &written) &&
         EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, 16, packet + length[i]);
  }
  EVP_CIPHER_CTX_free(context);
  return ok;
}
