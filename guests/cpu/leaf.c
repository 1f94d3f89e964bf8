/* A program that is linked with the C library and the mathematics library when it starts, and does nothing. */
#include <math.h>
#include <stdio.h>

int main(int count, char **words)
{
    if (count > 2)
        printf("%s %f\n", words[2], cos(count));
    return 0;
}
