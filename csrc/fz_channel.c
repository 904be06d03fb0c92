#include "fz_channel.h"

fz_channel_relay *fz_channel_find(const fz_channel_table *t, const fz_addr *address) {
  for (uint32_t i = 0; i < t->count; i++) {
    const fz_addr *known = &t->relays[i]->address;
    if (known->port == address->port && known->family == address->family && memcmp(known->ip, address->ip, sizeof known->ip) == 0) {
      return t->relays[i];
    }
  }
  return NULL;
}

uint32_t fz_channel_of(const uint8_t *p, uint32_t n) {
  if (n < FZ_CHANNEL_DATA_HEADER) return FZ_CHANNELS;
  uint32_t number = fz_load_be16(p), length = fz_load_be16(p + 2);
  if (number < FZ_FIRST_CHANNEL || number >= FZ_FIRST_CHANNEL + FZ_CHANNELS || length != n - FZ_CHANNEL_DATA_HEADER) return FZ_CHANNELS;
  return number - FZ_FIRST_CHANNEL;
}
