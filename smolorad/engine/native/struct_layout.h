/* The layouts of the structures that Python mirrors (structs.py): it compares them with its own when it loads a library. */
#ifndef SMOLORA_STRUCT_LAYOUT_H
#define SMOLORA_STRUCT_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *name; /* NULL ends a table */
    int32_t size, last_offset;
} StructLayout;

#define LAYOUT_OF(type, last) {#type, sizeof(type), offsetof(type, last)}

#endif
