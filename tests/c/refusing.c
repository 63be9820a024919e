/* realloc() that can be told to fail; the linker puts it before the real one. */
#include "refusing.h"

int refuse_from = -1;
int refuse_times;

void *__real_realloc(void *memory, size_t size);
void *__wrap_realloc(void *memory, size_t size);

void *__wrap_realloc(void *memory, size_t size)
{
    if (refuse_from > 0)
        refuse_from--;
    else if (refuse_from == 0 && refuse_times > 0 && refuse_times--)
        return NULL;
    return __real_realloc(memory, size);
}
