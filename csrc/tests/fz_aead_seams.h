/* Included before everything else where tests compile the AEAD as a library of their own: the first word of the nonce, which is zero
 * in the package, becomes a variable, since published vectors have nonces of twelve bytes. */
#include <stdint.h>

extern uint32_t fz_nonce_head;

#define FZ_NONCE_HEAD fz_nonce_head
